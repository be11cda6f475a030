from deploy.local.up import cli

cli()
