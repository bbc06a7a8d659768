"""The revision of all that makes pixels: ops, policies, stages and their draws."""

# Counts the changes after which the same config makes other views. What is known by its views, such
# as a teacher that several runs share, is then made anew.
REVISION = 2
