"""How frames reach a peer over HTTP responses and WebSockets."""
