"""How a factory reaches its coordinators: the same messages over the bus and over REST."""
