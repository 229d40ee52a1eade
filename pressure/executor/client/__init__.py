"""The client of an executor: tasks out, answers in.

`dispatcher` has the picture. Nothing here imports what runs in a worker process, nor the other way.
"""
