"""The version of the rules, where nothing else is needed of them."""

# Of what the rules make of the same choices: records of another version are not used.
RULES_VERSION = 1
