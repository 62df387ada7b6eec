"""Reading: what the store proves comes from the store, the rest from the provider, once."""
