"""The Hub: a folder goes up in one commit, or comes down whole; what is in it is not known here."""
