"""The story: accept an instance, score its study, deliver the result. Read in that order."""
