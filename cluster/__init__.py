"""Ray and bytes; knows no machine learning."""
