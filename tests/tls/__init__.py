"""TLS at the edge, with the real engine on loopback, OpenSSL and other people's programs on both sides of it."""
