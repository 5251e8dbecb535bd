"""Networks to take home: folders, proofs that they are what the supernet computes, exports."""
