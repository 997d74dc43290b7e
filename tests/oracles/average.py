def reference(stacks):
    return {name: sum(x) / len(x) for name, x in stacks.items()}
