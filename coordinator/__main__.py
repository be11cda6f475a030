from coordinator.main import cli

cli()
