"""What editors need: names of a text, a language server, and lexers made from the grammar."""
