"""The command line: one command per thing a person does, and how a command reaches what it works on."""
