"""What is asked: one module or folder per kind of dataset, each with a `TASK` (`rft.tasks.base.Task`); and
converters of other benchmarks into a dataset of JSON lines (`rft.tasks.convert`).
"""
