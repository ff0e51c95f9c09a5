"""Laws of verse as trellises, to be kept beside an expression."""
