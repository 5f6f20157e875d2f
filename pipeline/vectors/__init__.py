"""Files of vectors with classes, or of images: what they say of their content, and their content. No torch here."""
