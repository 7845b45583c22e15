"""Made data sets, which every machine can have without a download."""
