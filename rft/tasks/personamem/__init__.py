"""PersonaMem-v2 (arXiv 2512.06688), real or simulated: four-option questions in CSVs of 27 columns."""
