"""How much of a model false updates leave under each rule. Trust zone: the developer's machine."""
