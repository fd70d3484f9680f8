"""The commands of ``chorus``, a module for each family; ``chorus.cli`` puts them together."""
