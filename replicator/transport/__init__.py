"""What goes over HTTP, whatever it says: one bounded, authenticated client, the server, and the bodies of requests."""
