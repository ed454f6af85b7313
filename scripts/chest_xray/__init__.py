"""From public chest radiographs to the two shipped bundles; `train_chest_xray.py` is the door."""
