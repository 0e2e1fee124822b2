"""From a crawl to a training set: deduplicate, cluster, sample, retrieve, balance, filter."""
