"""YAML that others wrote: small, shallow, and without aliases."""

from typing import Any

MAX_BYTES = 1 << 16  # the official configs have 4 kB; PyYAML reads 100 kB in a second
MAX_DEPTH = 16


def parse_yaml(data: bytes) -> Any:
    """Parses one YAML document of plain data.

    Aliases are refused: ten lines of them stand for a billion values.

    Raises:
      ValueError: if it is larger than `MAX_BYTES`, not UTF-8, not YAML, nested deeper than
        `MAX_DEPTH`, or has aliases.
    """
    import yaml  # needed by one command only

    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes of YAML; at most {MAX_BYTES:,} are read")
    text = data.decode()
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("a YAML file with aliases (*NAME); write the values out")
            if depth > MAX_DEPTH:
                raise ValueError(f"a YAML file nested deeper than {MAX_DEPTH}")
        return yaml.safe_load(text)
    # PyYAML also lets through what int(), float() and datetime raise.
    except (yaml.YAMLError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        raise ValueError(f"not a YAML file: {' '.join(str(error).split())}") from error
