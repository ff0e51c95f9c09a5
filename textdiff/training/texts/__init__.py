"""What a recipe for texts comes to: the files of token ids, the tokenizer, the network."""
