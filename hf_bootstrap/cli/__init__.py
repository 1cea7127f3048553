"""The command line: one command per verb, each calls one public function."""
