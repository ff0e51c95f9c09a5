"""Training by recipe: the recipe, the data, one loss, and the Hugging Face Trainer around them."""
