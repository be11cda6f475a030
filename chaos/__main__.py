"""`python -m chaos`, which `gigafactory chaos` becomes: break the fleet on purpose, and judge what happened."""

from chaos.main import cli

if __name__ == "__main__":
    cli()
