"""Copy a set without the questions that a policy answers without the document."""


def add_arguments(parser):
    pass


def run(args):
    return 0
