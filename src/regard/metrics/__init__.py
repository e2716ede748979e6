"""The scores of the field, with what is needed to compare them."""
