"""How answers reach archives: a durable outbox, C-STORE, STOW-RS, storage commitment."""
