"""WebSockets: the handshake, the shell around Autobahn, permessage-deflate."""
