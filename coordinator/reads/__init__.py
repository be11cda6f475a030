"""What is only looked at: lists, histories and explanations. Nothing here decides or writes."""
