"""Subcommands of ``perfgate``, one module each: ``HELP``, ``add_arguments(parser)`` and ``run(options) -> exit status``."""
