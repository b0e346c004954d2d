"""The report to sign: a model's engines and what speaks for them, as one page and one picture."""
