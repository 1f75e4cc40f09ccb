"""Who the client is, told to real servers and heard from real balancers."""
