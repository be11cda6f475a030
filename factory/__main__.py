from factory.main import cli

cli()
