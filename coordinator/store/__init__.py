"""The provider port and its implementations. Everything durable goes through here."""
