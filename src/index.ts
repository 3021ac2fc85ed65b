/** The public surface of uvdo: make, open, serve and measure volumes. */
export { GiB, KiB, MiB, PiB, TiB } from './base/constants.ts';
export { VdoError, type VdoCode } from './base/errors.ts';
export type { BlockDevice, DeviceExtent, WriteOptions } from './device/block-device.ts';
export type { HashIndex } from './index/hash-index.ts';
export { auditVolume, type AuditOptions, type AuditReport } from './inspect/audit.ts';
export type { Finding, FindingKind } from './inspect/audit-findings.ts';
export type { MeasuredWindow, Measurement } from './measure/figures.ts';
export { mergeMeasurements, type MergeOptions } from './measure/fleet.ts';
export { measure, type MeasureOptions, type MeasureProgress } from './measure/measurement.ts';
export { serve, type NbdServer, type ServeOptions } from './nbd/server.ts';
export { MemoryStorage } from './storage/memory-storage.ts';
export type { Extent, Storage } from './storage/storage.ts';
export { openFileStorage } from './storage/file-storage.ts';
export { formatStorage, formatVolume } from './volume/format.ts';
export { openVolume, openVolumeOn, type OpenOptions } from './volume/open.ts';
export { rebuildVolume, type RebuildVolumeOptions } from './volume/rebuild-volume.ts';
export { type Statistics } from './volume/statistics.ts';
export { Volume } from './volume/volume.ts';
