"""What the verbs of the command line do, one file each; `cli.py` says how they are typed."""
