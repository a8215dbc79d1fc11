// The formats of strings that a schema may ask for, as regular expressions of texts that fit them for certain.
const DAY = '(0[1-9]|1[0-9]|2[0-8])';
const DATE = `[0-9]{4}-((0[1-9]|1[0-2])-${DAY}|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)`;
const CLOCK = '([01][0-9]|2[0-3]):[0-5][0-9]';
const TIME = `${CLOCK}:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]${CLOCK})`;
const SPAN = '[0-9]{1,6}';
const HOURS = `T(${SPAN}H(${SPAN}M)?(${SPAN}S)?|${SPAN}M(${SPAN}S)?|${SPAN}S)`;
const LABEL = '[A-Za-z0-9]([A-Za-z0-9-]{0,29}[A-Za-z0-9])?';
const LOCAL = '[A-Za-z0-9_+-]+';
const BYTE = '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])';

export const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  'date-time': `${DATE}T${TIME}`,
  duration: `P(${SPAN}W|(${SPAN}Y(${SPAN}M)?(${SPAN}D)?|${SPAN}M(${SPAN}D)?|${SPAN}D)(${HOURS})?|${HOURS})`,
  email: `${LOCAL}(\\.${LOCAL})*@(${LABEL}\\.){1,4}[A-Za-z]{2,16}`,
  hostname: `${LABEL}(\\.${LABEL}){0,6}`,
  ipv4: `${BYTE}(\\.${BYTE}){3}`,
  ipv6: '[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}',
  uuid: '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}',
};
