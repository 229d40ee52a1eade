"""A soak: everything at once, for minutes or hours, while faults strike; and then the books.

python -m tests.soak --minutes 5 --seed 1 --server valkey

module     what it does
books      who did what with which item, and when; and whether it adds up
actors     what the processes do: producers, consumers, executors, workers
troubles   the faults, of which the seed chooses
stage      starts the actors, replaces those that die, and ends them
report     the table
"""
