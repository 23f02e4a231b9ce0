"""Parameters of a model, selected by the beginning of their names."""

from detlite.errors import suggest


def is_within(name, prefix):
    """Check whether a name such as "layer1.0.conv1" is the prefix or inside it.

    >>> is_within("layer1.0.conv1", "layer1.0"), is_within("layer1.0.conv1", "layer1.0.c")
    (True, False)
    """
    return name == prefix or name.startswith(f"{prefix}.")


def parameters_within(parameters, prefix, owner):
    """Select the parameters, {name: parameter}, whose names are within a prefix.

    Raises:
        ValueError: there are none; the message names ``owner``, the nearest prefix and all short ones.
    """
    found = {name: parameter for name, parameter in parameters.items() if is_within(name, prefix)}
    if not found:
        choices = {".".join(name.split(".")[:depth]) for name in parameters for depth in (1, 2)}
        raise ValueError(f"{owner} has no weights in {prefix!r}{suggest(prefix, choices)}")
    return found
