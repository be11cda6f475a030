"""The one-machine fleet: nats-server, a coordinator and factories as child processes."""
