"""The public Python functions: every command is one of them, with the same names and arguments.

Importing this costs little: the functions load torch when they begin to work.
"""

from vistill.api import recipes as recipes
