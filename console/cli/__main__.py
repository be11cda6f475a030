from console.cli.main import cli

cli()
