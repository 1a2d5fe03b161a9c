"""How streams do after their training, as people read it."""
