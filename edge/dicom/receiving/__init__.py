"""How objects come into a spool: by C-STORE, from a watched folder, from a DICOMweb service."""
