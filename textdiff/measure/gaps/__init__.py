"""How well a model restores what is lost of texts that it has not seen."""
