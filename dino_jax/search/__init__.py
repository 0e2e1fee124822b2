"""Search in a catalogue of photos: an index folder, exact answers, duplicates, measures, a page."""
