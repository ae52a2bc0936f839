"""What goes over HTTP, whatever it says: the server, and the bodies of requests."""
