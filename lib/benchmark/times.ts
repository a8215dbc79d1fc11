/** Seconds of repeated work. */
export interface Times {
  median: number;
  min: number;
  max: number;
  /** In the order in which they were taken. */
  samples: number[];
}

export function summarize(samples: readonly number[]): Times {
  const sorted = samples.toSorted((a, b) => a - b);
  return { median: sorted[sorted.length >> 1]!, min: sorted[0]!, max: sorted.at(-1)!, samples: [...samples] };
}
